"""How good a model is: tasks, measures with their uncertainty, reports. It sees models only through their protocols."""
