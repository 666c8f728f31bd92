"""What brings trials together, and what does it cost?"""
