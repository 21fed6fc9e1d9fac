"""Where the step meets the machine: mesh, named collectives, one file a transport."""
