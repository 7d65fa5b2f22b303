"""The experiment on CalibAdv's claims; its record is docs/falsify."""
