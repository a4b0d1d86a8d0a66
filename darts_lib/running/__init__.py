"""What a run is made of: its settings, its folder, how it is opened, goes on, reports and ends."""
