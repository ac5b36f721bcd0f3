"""The recorder of Gymnasium and PettingZoo environments."""
