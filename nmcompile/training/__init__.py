"""A pruned program, its dense original and images -> the program trained with its masks."""
