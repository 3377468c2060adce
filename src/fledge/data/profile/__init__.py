"""Who somebody is: read by rule from a CV or a README, or told in an interview; never guessed."""
