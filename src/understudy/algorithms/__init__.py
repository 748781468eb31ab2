"""One paper, one file: each algorithm is state plus a loop that reads like the paper's box."""
