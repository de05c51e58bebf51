"""What reaches a segdl that is at work: the control socket."""
