"""What can be wrong with a call of the demo; the command line turns it into one line and exit status 2."""


class DemoError(ValueError):
    """A wrong argument, a missing package, unreadable data."""
