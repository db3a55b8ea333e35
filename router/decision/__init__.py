"""Policy + levels + place -> route table -> decision. Pure."""
