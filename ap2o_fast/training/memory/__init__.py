"""What training needs of memory, before it is taken, and settings that make it less."""
