"""Training and distillation. Needs the ``train`` extra; nothing on the prediction path imports it."""
