"""One file is one kind of contact with the machine; it reports and never decides."""
