"""The methods in pure torch. Read importance, rules, masks, scope and guided first, in this order."""
