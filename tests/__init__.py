"""The tests of segdl."""
