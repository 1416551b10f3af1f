"""The loop, the methods, the masks, and the driver that saves and resumes."""
