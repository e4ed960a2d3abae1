"""What callers notice when servers die, hang, lie and restart: real servers, a steady load, and who chooses."""
