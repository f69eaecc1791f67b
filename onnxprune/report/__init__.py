"""What a person reads, on a terminal and in HTML, and what a program reads in JSON."""
