"""What every normalizer is built from: axes, moments, collectives, the rule, stats."""
