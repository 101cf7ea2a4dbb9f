"""Plans in words before answers: the prompts, the steps and the tree that the planning strategies share.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733).
"""
