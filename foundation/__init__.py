"""What all packages use: errors, random numbers, atomic files, ranks, types of settings. Imports
none of them."""
