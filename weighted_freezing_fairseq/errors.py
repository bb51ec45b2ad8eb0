"""The one error that is the user's to mend: its text says what to type next."""


class UserError(Exception):
    """A wrong call, a missing file, an impossible setting. Shown as one line, never as a traceback."""


def check_fraction(flag: str, value: float, example: float, *, zero: bool = False, one: bool = False) -> None:
    """Refuse a `value` that is not between 0 and 1; `zero` and `one` say whether the ends are allowed."""
    if 0 < value < 1 or (zero and value == 0) or (one and value == 1):
        return
    allowed = f"{'at least' if zero else 'above'} 0 and {'at most' if one else 'below'} 1"
    raise UserError(f"{flag} must be {allowed}, got {value:g}; type {flag} {example:g}")
