"""Decisions, without I/O: values in, values out."""
