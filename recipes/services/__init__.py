"""What methods share: the averaged network, class statistics, memories, neighbors."""
