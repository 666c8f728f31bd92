"""How fast do two trainings part that differ in one bit?"""
