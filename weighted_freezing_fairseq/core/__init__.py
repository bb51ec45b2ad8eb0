"""The mathematics, in pure torch: reading order is importance, rules, masks, scope, guided."""
