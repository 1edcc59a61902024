"""Figures of the Sora report, made again: one file for each."""
