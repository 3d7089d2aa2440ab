"""What lies in a lake: paths, manifests, the records and tables behind them; and text that people write."""
