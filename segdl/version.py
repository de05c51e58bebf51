"""The version of this segdl, in one place."""

VERSION = "0.1.0"
