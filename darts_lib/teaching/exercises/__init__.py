"""Checks of the exercises, a module a chapter; each raises AssertionError with a hint."""
