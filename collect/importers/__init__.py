"""Runs trained elsewhere: arrays, and the folders that other tools leave."""
