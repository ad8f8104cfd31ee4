"""How the bundled model is made: world, data, training stages, evaluator; never imports the engine."""
