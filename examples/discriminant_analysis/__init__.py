"""Linear discriminant analysis and Gaussian naive Bayes as a softmax.

Run it from the root of the repository with `python -m examples.discriminant_analysis`.
"""
