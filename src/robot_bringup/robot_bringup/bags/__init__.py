"""Writing rosbag2 bags: which topics, their definitions, one bag, its audit, the folder of a run's bags. Reading is whetstone.bags."""
