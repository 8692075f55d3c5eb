"""The operator's verbs, over the verbs that both engines have."""
