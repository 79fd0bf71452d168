"""Isaac Sim's side of sim:=isaac: the robot at our table, behind the topics of Isaac Sim's ROS 2 bridge.

    whetstone isaac-scene robot:=franka out:=isaac_scene.json
    ISAAC_SIM/python.sh stage.py isaac_scene.json [--usd URL] [--urdf FILE] [--hand PRIM] [--headless]

Role: a standalone Isaac Sim script (4.5 and 5: the `isaacsim.*` extensions), run by Isaac Sim's Python; it imports nothing of ours but its
neighbour bridge_graph.py. An action graph publishes /clock, joint states and cameras and hands joint commands to the arm; a node in
this process tells objects' poses on objects/NAME/pose and puts them where objects/NAME/set_pose says (geometry_msgs/PoseStamped, world
frame). Written from Isaac Sim's documentation: IT HAS NOT BEEN RUN. Run `whetstone conform robot:=franka sim:=isaac` against it first.
"""

import argparse
import json
import math
import time

from bridge_graph import Prim, bridge  # lies beside this file

PHYSICS_HZ = 240
"""Physics steps a second of simulated time."""
ROBOT = "/World/robot"
FRANKA = "/Isaac/Robots/Franka/franka.usd"
"""Below the assets' root; in 5.0 FrankaRobotics/FrankaPanda/franka.usd: the first that is there is taken."""
FRANKA_LATER = "/Isaac/Robots/FrankaRobotics/FrankaPanda/franka.usd"
HANDS = {"hand": "panda_hand", "so_arm100_left/Fixed_Jaw": "gripper"}
"""Bodies of our model that a camera is fixed to -> links of the assets; --hand says otherwise."""


def arguments():
    parser = argparse.ArgumentParser(description="our table and a robot in Isaac Sim, behind its ROS 2 bridge")
    parser.add_argument("scene", help="the file that `whetstone isaac-scene` wrote")
    parser.add_argument("--usd", help="the robot's USD; default: Isaac Sim's Franka")
    parser.add_argument("--urdf", help="or its URDF, which is imported")
    parser.add_argument("--hand", help="name of the link that the wrist camera is fixed to")
    parser.add_argument("--headless", action="store_true")
    return parser.parse_args()


OPTIONS = arguments()
with open(OPTIONS.scene, encoding="utf-8") as _file:
    SCENE = json.load(_file)

from isaacsim import SimulationApp  # noqa: E402

APP = SimulationApp({"headless": OPTIONS.headless})

# Everything of Isaac Sim can be imported only now.
import numpy as np  # noqa: E402
import omni.graph.core as og  # noqa: E402
import omni.kit.commands  # noqa: E402
import omni.usd  # noqa: E402
from isaacsim.core.api import World  # noqa: E402
from isaacsim.core.prims import SingleArticulation, SingleRigidPrim, SingleXFormPrim  # noqa: E402
from isaacsim.core.utils.extensions import enable_extension  # noqa: E402
from isaacsim.core.utils.prims import is_prim_path_valid  # noqa: E402
from isaacsim.core.utils.stage import add_reference_to_stage  # noqa: E402
from isaacsim.core.utils.types import ArticulationAction  # noqa: E402
from isaacsim.storage.native import get_assets_root_path  # noqa: E402
from pxr import Gf, Sdf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdShade  # noqa: E402

enable_extension("isaacsim.ros2.bridge")
APP.update()

import rclpy  # noqa: E402  the bridge's own, or that of the ROS 2 that was sourced
from geometry_msgs.msg import PoseStamped  # noqa: E402

STAGE = omni.usd.get_context().get_stage()


def place(prim, position, quaternion):
    """quaternion: w, x, y, z."""
    form = UsdGeom.Xformable(prim)
    form.ClearXformOpOrder()
    form.AddTranslateOp().Set(Gf.Vec3d(*position))
    form.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Quatd(*quaternion))
    return form


def material(friction):
    """One physics material for each friction."""
    path = f"/World/materials/friction_{round(1000 * friction)}"
    if not STAGE.GetPrimAtPath(path):
        UsdShade.Material.Define(STAGE, path)
        physics = UsdPhysics.MaterialAPI.Apply(STAGE.GetPrimAtPath(path))
        physics.CreateStaticFrictionAttr().Set(friction)
        physics.CreateDynamicFrictionAttr().Set(friction)
    return UsdShade.Material(STAGE.GetPrimAtPath(path))


def add_shape(path, shape):
    if shape["kind"] == "box":
        solid = UsdGeom.Cube.Define(STAGE, path)
        solid.CreateSizeAttr(1.0)
        scale = shape["size"]
    else:
        solid = UsdGeom.Cylinder.Define(STAGE, path)
        radius, height = shape["size"]
        solid.CreateRadiusAttr(radius)
        solid.CreateHeightAttr(height)
        scale = (1.0, 1.0, 1.0)
    place(solid.GetPrim(), shape["position"], shape["quaternion"]).AddScaleOp().Set(Gf.Vec3f(*scale))
    solid.CreateDisplayColorAttr([Gf.Vec3f(*shape["colour"][:3])])
    if shape["solid"]:
        UsdPhysics.CollisionAPI.Apply(solid.GetPrim())
        UsdShade.MaterialBindingAPI.Apply(solid.GetPrim()).Bind(
            material(shape["friction"]), UsdShade.Tokens.weakerThanDescendants, "physics"
        )


def add_bodies():
    for body in SCENE["bodies"]:
        path = f"/World/{body['name']}"
        prim = UsdGeom.Xform.Define(STAGE, path).GetPrim()
        place(prim, body["position"], body["quaternion"])
        for index, shape in enumerate(body["shapes"]):
            add_shape(f"{path}/shape_{index}", shape)
        if body["name"] == "table":
            continue
        rigid = UsdPhysics.RigidBodyAPI.Apply(prim)
        rigid.CreateKinematicEnabledAttr(not body["moves"])
        if body["moves"]:
            mass = UsdPhysics.MassAPI.Apply(prim)
            mass.CreateMassAttr(body["mass"])
            mass.CreateDiagonalInertiaAttr(Gf.Vec3f(*body["inertia"]))


def add_robot():
    if OPTIONS.urdf:
        enable_extension("isaacsim.asset.importer.urdf")
        _, config = omni.kit.commands.execute("URDFCreateImportConfig")
        config.fix_base = True
        config.merge_fixed_joints = False
        config.default_drive_type = 1  # position
        _, path = omni.kit.commands.execute(
            "URDFParseAndImportFile", urdf_path=OPTIONS.urdf, import_config=config, get_articulation_root=False
        )
        omni.kit.commands.execute("MovePrim", path_from=path, path_to=ROBOT)
    else:
        add_reference_to_stage(OPTIONS.usd or _franka(), ROBOT)
    place(STAGE.GetPrimAtPath(ROBOT), SCENE["base"]["position"], SCENE["base"]["quaternion"])


def _franka():
    import omni.client

    root = get_assets_root_path()
    if root is None:
        raise SystemExit("Isaac Sim's assets are not within reach; give the robot as --usd FILE or --urdf FILE")
    for below in (FRANKA_LATER, FRANKA):
        if omni.client.stat(root + below)[0] == omni.client.Result.OK:
            return root + below
    raise SystemExit(f"no Franka below {root}; give the robot as --usd FILE")


def link(name):
    """Path of the robot's link of that name."""
    for prim in Usd.PrimRange(STAGE.GetPrimAtPath(ROBOT)):
        if prim.GetName() == name:
            return str(prim.GetPath())
    links = ", ".join(prim.GetName() for prim in Usd.PrimRange(STAGE.GetPrimAtPath(ROBOT)) if prim.HasAPI(UsdPhysics.RigidBodyAPI))
    raise SystemExit(f"the robot has no link '{name}' for the camera; say which with --hand: {links}")


def add_cameras():
    """Paths by name. Our model's cameras look along -z with y up, as USD's do."""
    paths = {}
    for camera in SCENE["cameras"]:
        parent = "/World" if not camera["link"] else link(OPTIONS.hand or HANDS.get(camera["link"], camera["link"]))
        path = f"{parent}/{camera['name']}_camera"
        prim = UsdGeom.Camera.Define(STAGE, path)
        aperture = 20.955  # USD's own default, in tenths of a unit; the focal length follows from the field of view
        prim.CreateHorizontalApertureAttr(aperture)
        prim.CreateVerticalApertureAttr(aperture * camera["height"] / camera["width"])
        prim.CreateFocalLengthAttr(aperture / 2 / math.tan(camera["horizontal"] / 2))
        prim.CreateClippingRangeAttr(Gf.Vec2f(0.01, 10.0))
        place(prim.GetPrim(), camera["position"], camera["quaternion"])
        paths[camera["name"]] = path
    return paths


def articulation_root():
    for prim in Usd.PrimRange(STAGE.GetPrimAtPath(ROBOT)):
        if prim.HasAPI(UsdPhysics.ArticulationRootAPI):
            return str(prim.GetPath())
    raise SystemExit("the robot is no articulation: its USD has no ArticulationRootAPI")


def add_graph(root, cameras):
    keys = og.Controller.Keys
    nodes, values, edges = bridge(SCENE, root, cameras)
    values = [(name, [Sdf.Path(value.path)] if isinstance(value, Prim) else value) for name, value in values]
    og.Controller.edit(
        {"graph_path": "/World/bridge", "evaluator_name": "execution"},
        {keys.CREATE_NODES: nodes, keys.SET_VALUES: values, keys.CONNECT: edges},
    )


class Objects:
    """objects/NAME/pose and objects/NAME/set_pose."""

    def __init__(self):
        rclpy.init()
        self.node = rclpy.create_node("objects", namespace=f"/{SCENE['namespace']}")
        self.prims, self.publishers = {}, {}
        for body in SCENE["bodies"]:
            name = body["name"]
            if name == "table":
                continue
            self.prims[name] = (SingleRigidPrim if body["moves"] else SingleXFormPrim)(f"/World/{name}", name=name)
            self.publishers[name] = self.node.create_publisher(PoseStamped, f"objects/{name}/pose", 10)
            self.node.create_subscription(PoseStamped, f"objects/{name}/set_pose", lambda message, name=name: self.put(name, message), 10)

    def begin(self):
        for prim in self.prims.values():
            prim.initialize()

    def put(self, name, message):
        p, q = message.pose.position, message.pose.orientation
        prim = self.prims[name]
        prim.set_world_pose(np.array([p.x, p.y, p.z]), np.array([q.w, q.x, q.y, q.z]))
        if isinstance(prim, SingleRigidPrim):
            prim.set_linear_velocity(np.zeros(3))
            prim.set_angular_velocity(np.zeros(3))

    def tell(self, seconds):
        """One pose of each object, stamped with simulated time (s)."""
        rclpy.spin_once(self.node, timeout_sec=0.0)
        for name, prim in self.prims.items():
            position, quaternion = prim.get_world_pose()
            message = PoseStamped()
            message.header.frame_id = "world"
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(seconds * 1e9), 1_000_000_000)
            p, q = message.pose.position, message.pose.orientation
            p.x, p.y, p.z = map(float, position)
            q.w, q.x, q.y, q.z = map(float, quaternion)
            self.publishers[name].publish(message)


def main():
    # Two frames a control period: each has a fresh one, and every second falls on the control rate.
    render = 1 / (2 * SCENE["rate"])
    world = World(physics_dt=1 / PHYSICS_HZ, rendering_dt=render, stage_units_in_meters=1.0)
    UsdLux.DistantLight.Define(STAGE, "/World/light").CreateIntensityAttr(1500.0)
    add_bodies()
    add_robot()
    cameras = add_cameras()
    root = articulation_root()
    if not is_prim_path_valid(root):
        raise SystemExit(f"{root} is no prim")
    add_graph(root, cameras)
    robot = world.scene.add(SingleArticulation(root, name="robot"))
    objects = Objects()
    world.reset()
    objects.begin()
    names = list(robot.dof_names)
    wanted = [joint["name"] for joint in SCENE["joints"]] + SCENE["fingers"]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise SystemExit(f"the robot has no joint {', '.join(missing)}; it has {', '.join(names)}")
    home = np.array(robot.get_joint_positions(), dtype=float)
    for joint in SCENE["joints"]:
        home[names.index(joint["name"])] = joint["home"]
    for finger in SCENE["fingers"]:
        home[names.index(finger)] = SCENE["gripper"]["open"]
    robot.set_joint_positions(home)
    robot.apply_action(ArticulationAction(joint_positions=home))
    told = names.index(SCENE["gripper"]["name"])
    followers = np.array([names.index(name) for name in SCENE["fingers"] if name != SCENE["gripper"]["name"]], dtype=int)
    due = time.monotonic()
    while APP.is_running():
        world.step(render=True)  # as many physics steps as there are between two pictures; all topics go out
        due = max(due + render, time.monotonic() - 0.5)
        time.sleep(max(0.0, due - time.monotonic()))  # in real time: commands come by the wall clock
        if not world.is_playing():
            continue
        if len(followers):  # one finger is commanded; the hand has two that go together
            target = robot.get_applied_action().joint_positions[told]
            robot.apply_action(ArticulationAction(joint_positions=np.full(len(followers), target), joint_indices=followers))
        objects.tell(world.current_time)


try:
    main()
finally:
    APP.close()
