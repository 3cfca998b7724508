"""What a published figure shows: its panels, the parts of its caption, its kind, the language of its words."""
