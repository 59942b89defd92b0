"""How the pocket model was trained. Needs torch >= 2.9 (Muon); using the model does not.

`python -m sparevlm.pocket.training.tower`, then `python -m sparevlm.pocket.training.language`.
"""
