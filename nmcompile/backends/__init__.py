"""Targets: what a Program is lowered to, one file each."""
