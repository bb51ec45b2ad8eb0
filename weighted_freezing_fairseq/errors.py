"""The error that a user can correct."""


class UserError(Exception):
    """A wrong call, missing file or invalid setting; printed as one line that says what to type."""


def check_fraction(flag: str, value: float, example: float, *, zero: bool = False, one: bool = False) -> None:
    """Raise UserError unless `value` is between 0 and 1; `zero` and `one` say whether the bounds are allowed."""
    if 0 < value < 1 or (zero and value == 0) or (one and value == 1):
        return
    allowed = f"{'at least' if zero else 'above'} 0 and {'at most' if one else 'below'} 1"
    raise UserError(f"{flag} must be {allowed}, got {value:g}; type {flag} {example:g}")
