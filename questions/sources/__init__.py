"""How much does each source of randomness alone make differ?"""
