"""Figures: curves, alphas, cells and pictures, in one style."""
