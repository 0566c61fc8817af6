"""The take-over of a machine that cmdeploy of chatmail/relay set up (docs/adoption.md)."""
