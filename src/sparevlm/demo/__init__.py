"""``sparevlm demo``: a page on which one drags the budget and sees what the model still gets."""
