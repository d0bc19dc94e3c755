"""Task families of the starter: wordings, values, plans and references, from which tasks are drawn and really run."""
