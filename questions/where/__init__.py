"""On which text do trials disagree, and is it an error?"""
