"""What a recipe is and how it runs: step, methods' contract, composition, networks, tasks, report."""
