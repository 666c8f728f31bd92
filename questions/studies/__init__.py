"""What do several studies say together?"""
