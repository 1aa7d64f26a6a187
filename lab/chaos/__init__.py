"""One job under a hundred faults in a row, nobody helping: `python -m lab chaos --help`."""
