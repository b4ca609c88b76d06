"""What a person sees of a run: progress and tables in the terminal, metrics files, the report, the model card.

Import from the modules: the report needs plotly, which takes long to import and most commands do without.
"""
