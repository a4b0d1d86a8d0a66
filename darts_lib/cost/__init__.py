"""What a network costs: weights, multiply-adds, expected costs of a relaxed cell, seconds.

For whoever compares networks, or wants cheaper cells.
"""
