"""A check of the whole relay from its own machine: two throwaway addresses use it like clients."""
