"""The one error that is the user's to mend: its text says what to type next."""


class UserError(Exception):
    """A wrong call, a missing file, an impossible setting. Shown as one line, never as a traceback."""
