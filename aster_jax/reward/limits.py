"""What both ends of a comparison know about its limits."""

OVER = 86  # exit code of a process whose job used up its processor time
